package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;

/** The run that the request asked for was cancelled. */
public final class CancelledException extends RequestException {
  private static final long serialVersionUID = 1L;

  CancelledException(Problem problem, PipelineResult<JsonNode> result) {
    super(problem, result);
  }
}
