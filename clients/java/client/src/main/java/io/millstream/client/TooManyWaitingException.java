package io.millstream.client;

/** As many requests wait for results as may; this one was not sent. Try later, or raise {@link ClientSettings#maxWaiting}. */
public final class TooManyWaitingException extends MillstreamException {
  private static final long serialVersionUID = 1L;

  TooManyWaitingException(int most, String requestId) {
    super(
        "too_many_waiting",
        "%,d requests wait for their results, at most %,d may; this one was not sent".formatted(most, most),
        "",
        "send more slowly, or raise " + ClientSettings.MAX_WAITING,
        requestId,
        null);
  }
}
