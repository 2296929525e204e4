package io.millstream.client;

import java.util.Objects;
import java.util.regex.Pattern;

/**
 * Trace context of a caller, sent with the request and echoed with its result.
 *
 * <p>Source: W3C Trace Context, sections 3.2 and 3.3.
 *
 * @param traceparent such as {@code 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01}
 * @param tracestate what vendors add, or empty
 */
public record TraceContext(String traceparent, String tracestate) {
  private static final Pattern TRACEPARENT = Pattern.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*");

  /**
   * Checks the form.
   *
   * @param traceparent as of W3C Trace Context
   * @param tracestate what vendors add, or empty
   * @throws IllegalArgumentException {@code traceparent} is none
   */
  public TraceContext {
    Objects.requireNonNull(tracestate, "tracestate");
    if (!TRACEPARENT.matcher(traceparent).matches()) {
      throw new IllegalArgumentException(
          "traceparent '%s' is not of the form 00-<32 hex digits>-<16 hex digits>-<2 hex digits>".formatted(traceparent));
    }
  }

  /**
   * A trace context without the additions of vendors.
   *
   * @param traceparent as of W3C Trace Context
   * @return the context
   */
  public static TraceContext of(String traceparent) {
    return new TraceContext(traceparent, "");
  }
}
