package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;

/** The caller must change the request; {@link #path()} names the value. */
public final class InvalidRequestException extends RequestException {
  private static final long serialVersionUID = 1L;

  InvalidRequestException(Problem problem, PipelineResult<JsonNode> result) {
    super(problem, result);
  }

  /** Refused here: nothing was sent. */
  static InvalidRequestException beforeSending(String code, String message, String path, String mend, String requestId) {
    return new InvalidRequestException(new Problem(code, message, path, mend, requestId), null);
  }
}
