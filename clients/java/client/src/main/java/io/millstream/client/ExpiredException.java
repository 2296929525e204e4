package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;

/** The request's own {@code timeout} passed before there was a result. */
public final class ExpiredException extends RequestException {
  private static final long serialVersionUID = 1L;

  ExpiredException(Problem problem, PipelineResult<JsonNode> result) {
    super(problem, result);
  }
}
