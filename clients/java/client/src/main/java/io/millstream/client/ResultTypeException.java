package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Optional;

/** The request ended with status ok, and what the pipeline returned does not fit the Java type that was asked for. */
public final class ResultTypeException extends MillstreamException {
  private static final long serialVersionUID = 1L;

  /** Not carried over serialization: who logs an exception elsewhere needs its text. */
  private final transient PipelineResult<JsonNode> result;

  ResultTypeException(String message, String path, String requestId, PipelineResult<JsonNode> result, Throwable cause) {
    super("unexpected_type", message, path, "ask for a type that fits, or for JsonNode.class", requestId, cause);
    this.result = result;
  }

  /**
   * The result as JSON.
   *
   * @return empty where the record is no result at all
   */
  public Optional<PipelineResult<JsonNode>> result() {
    return Optional.ofNullable(result);
  }
}
