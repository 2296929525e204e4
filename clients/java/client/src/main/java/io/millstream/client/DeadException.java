package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;

/** The request ended its worker every time it was tried; its bytes are kept as a dead letter. */
public final class DeadException extends RequestException {
  private static final long serialVersionUID = 1L;

  DeadException(Problem problem, PipelineResult<JsonNode> result) {
    super(problem, result);
  }
}
