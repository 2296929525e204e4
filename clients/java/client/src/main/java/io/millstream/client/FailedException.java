package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;

/** The pipeline raised, or what it returned cannot be written. */
public final class FailedException extends RequestException {
  private static final long serialVersionUID = 1L;

  FailedException(Problem problem, PipelineResult<JsonNode> result) {
    super(problem, result);
  }
}
