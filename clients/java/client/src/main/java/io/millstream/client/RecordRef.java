package io.millstream.client;

/**
 * Where a request lies on the log: the name that every result repeats.
 *
 * @param topic the input topic
 * @param partition its partition
 * @param offset the offset in the partition
 */
public record RecordRef(String topic, int partition, long offset) {

  /** As logs and messages spell it: {@code ml.pipeline.input/3/41}. */
  @Override
  public String toString() {
    return topic + "/" + partition + "/" + offset;
  }
}
