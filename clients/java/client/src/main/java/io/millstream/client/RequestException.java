package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Optional;

/** The request ended otherwise than ok: by the platform's answer, or refused here before it was sent. */
public class RequestException extends MillstreamException {
  private static final long serialVersionUID = 1L;

  /** Not carried over serialization: who logs an exception elsewhere needs its text. */
  private final transient PipelineResult<JsonNode> result;

  RequestException(Problem problem, PipelineResult<JsonNode> result) {
    this(problem, result, null);
  }

  RequestException(Problem problem, PipelineResult<JsonNode> result, Throwable cause) {
    super(problem.code(), problem.message(), problem.path(), problem.mend(), problem.requestId(), cause);
    this.result = result;
  }

  /**
   * The platform's answer: node, release, attempt, the record that it answers.
   *
   * @return empty where this client refused the request before it was sent
   */
  public Optional<PipelineResult<JsonNode>> result() {
    return Optional.ofNullable(result);
  }

  /** What the platform says of a request that it could not do. */
  record Problem(String code, String message, String path, String mend, String requestId) {}

  /** The exception of a status; of one that a later platform adds, this class itself. */
  static RequestException of(String status, Problem problem, PipelineResult<JsonNode> result) {
    return switch (Status.of(status).orElse(Status.OK)) {
      case INVALID -> new InvalidRequestException(problem, result);
      case FAILED -> new FailedException(problem, result);
      case EXPIRED -> new ExpiredException(problem, result);
      case DEAD -> new DeadException(problem, result);
      case CANCELLED -> new CancelledException(problem, result);
      case OK -> new RequestException(problem, result);
    };
  }
}
