package io.millstream.client;

/** The broker did not acknowledge the request. */
public final class SendException extends MillstreamException {
  private static final long serialVersionUID = 1L;

  /** Whether the request may have been written all the same. */
  private final boolean mayBeOnTheLog;

  SendException(String message, String mend, String requestId, boolean mayBeOnTheLog, Throwable cause) {
    super("log_unavailable", message, "", mend, requestId, cause);
    this.mayBeOnTheLog = mayBeOnTheLog;
  }

  /**
   * Whether the request may have been written all the same, so that sending it again may be a second request.
   *
   * @return false where it certainly was not
   */
  public boolean mayBeOnTheLog() {
    return mayBeOnTheLog;
  }
}
