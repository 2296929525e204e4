package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;

/** The caller must change the request; {@link #path()} names the value. */
public final class InvalidRequestException extends RequestException {
  private static final long serialVersionUID = 1L;

  InvalidRequestException(Problem problem, PipelineResult<JsonNode> result) {
    super(problem, result);
  }

  /** Refused here: nothing was sent. */
  InvalidRequestException(Problem problem, Throwable cause) {
    super(problem, null, cause);
  }
}
