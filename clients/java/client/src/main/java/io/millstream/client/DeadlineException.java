package io.millstream.client;

import java.util.Optional;

/** No result came in the time that the caller waits. The request stays on the log, where it was sent, and is answered. */
public final class DeadlineException extends MillstreamException {
  private static final long serialVersionUID = 1L;

  /** Not carried over serialization: who logs an exception elsewhere needs its text. */
  private final transient RecordRef record;

  DeadlineException(String message, String mend, String requestId, RecordRef record) {
    super("timeout", message, "", mend, requestId, null);
    this.record = record;
  }

  /**
   * Where the request lies on the log.
   *
   * @return empty where the broker has not acknowledged it: it may be on the log or not
   */
  public Optional<RecordRef> record() {
    return Optional.ofNullable(record);
  }
}
