package io.millstream.client;

/** How requests are spelled on the topic; nodes understand both alike. */
public enum Spelling {
  /** One JSON object, no headers but those of tracing. */
  PLAIN,
  /** CloudEvents 1.0, binary content mode: attributes are headers, the value is the parameters. */
  CLOUD_EVENTS
}
