package io.millstream.client;

import java.util.Locale;
import java.util.Optional;

/** How a request ended; a finer, stable code stands beside every status but {@link #OK}. */
public enum Status {
  /** The pipeline returned a value. */
  OK,
  /** The caller must change the request: unknown pipeline, bad parameters, no model. */
  INVALID,
  /** The pipeline raised, or what it returned cannot be written. */
  FAILED,
  /** The request's own {@code timeout} passed before there was a result. */
  EXPIRED,
  /** The request ended its worker every time it was tried. */
  DEAD,
  /** The run was cancelled. */
  CANCELLED;

  static Optional<Status> of(String text) {
    for (Status status : values()) {
      if (status.spelled().equals(text)) {
        return Optional.of(status);
      }
    }
    return Optional.empty();
  }

  /**
   * The status as results spell it.
   *
   * @return the name in lower case
   */
  public String spelled() {
    return name().toLowerCase(Locale.ROOT);
  }
}
