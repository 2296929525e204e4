package io.millstream.client;

/** The client was closed: before the request was sent, or before there was a result. One that was sent is answered all the same. */
public final class ClientClosedException extends MillstreamException {
  private static final long serialVersionUID = 1L;

  ClientClosedException(String message, String requestId) {
    super("client_closed", message, "", "", requestId, null);
  }
}
