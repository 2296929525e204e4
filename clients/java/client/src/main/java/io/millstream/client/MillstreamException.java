package io.millstream.client;

/**
 * Root of what this client raises.
 *
 * <pre>
 * MillstreamException              code, message, path, mend, requestId
 * ├── RequestException             the request ended otherwise than ok; result() where the platform answered
 * │   ├── InvalidRequestException    the caller must change it
 * │   ├── FailedException            the pipeline raised, or its answer cannot be written
 * │   ├── ExpiredException           its own timeout passed before there was a result
 * │   ├── DeadException              it ended its worker every time it was tried
 * │   └── CancelledException         its run was cancelled
 * ├── DeadlineException            no result in the time that the caller waits; the request stays on the log
 * ├── SendException                the broker did not acknowledge the request
 * ├── TooManyWaitingException      as many requests wait as may
 * ├── ResultTypeException          the result is ok and does not fit the Java type
 * └── ClientClosedException        the client was closed before there was a result
 * </pre>
 *
 * <p>{@link #code()} is stable: decide by it, show the rest. Codes of requests are listed in the platform's {@code docs/errors.md};
 * those of this client are {@code timeout}, {@code log_unavailable}, {@code record_too_large}, {@code too_many_waiting}, {@code
 * unexpected_type} and {@code client_closed}.
 */
public class MillstreamException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** What kind of error this is. */
  private final String code;

  /** Which value of the request is meant, or empty. */
  private final String path;

  /** What mends it, or empty. */
  private final String mend;

  /** Which request this is about, or empty. */
  private final String requestId;

  MillstreamException(String code, String message, String path, String mend, String requestId, Throwable cause) {
    super(message, cause);
    this.code = code;
    this.path = path;
    this.mend = mend;
    this.requestId = requestId;
  }

  /**
   * What kind of error this is.
   *
   * @return the stable code, such as {@code no_model}
   */
  public String code() {
    return code;
  }

  /**
   * Which value of the request is meant.
   *
   * @return a JSON path such as {@code $.readings[2].value}, the name of a header, or empty
   */
  public String path() {
    return path;
  }

  /**
   * What mends it.
   *
   * @return a step or a command, or empty
   */
  public String mend() {
    return mend;
  }

  /**
   * Which request this is about.
   *
   * @return its id, or empty
   */
  public String requestId() {
    return requestId;
  }

  /** All of it in one line, as the platform's command prints it. */
  @Override
  public String toString() {
    StringBuilder line = new StringBuilder(getClass().getSimpleName());
    line.append(": error[").append(code.replace('_', '-')).append("]: ").append(getMessage());
    if (!requestId.isEmpty() || !path.isEmpty()) {
      line.append(" (").append(requestId.isEmpty() ? "" : "request " + requestId);
      line.append(requestId.isEmpty() || path.isEmpty() ? "" : ", ").append(path).append(')');
    }
    return mend.isEmpty() ? line.toString() : line.append("; mend: ").append(mend).toString();
  }
}
