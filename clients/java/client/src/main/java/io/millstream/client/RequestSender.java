package io.millstream.client;

import java.time.Duration;
import java.util.function.Consumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.RecordTooLargeException;

/** Hands records to Kafka's producer (acks=all, idempotent) and says how each one ended. From any thread. */
final class RequestSender {
  private final KafkaProducer<byte[], byte[]> producer;
  private final String topic;

  /** Starts the producer; it connects by itself, now and whenever it must. */
  RequestSender(ClientSettings settings) {
    producer = new KafkaProducer<>(KafkaProperties.producer(settings));
    topic = settings.inputTopic();
  }

  /** Learns where the input topic lies, so that the first request does not wait for it. */
  void warmUp() {
    producer.partitionsFor(topic);
  }

  /**
   * Sends a request. Holds up its thread while the cluster is not known or the producer's memory is full, 10 s at most.
   *
   * @param sent told where it lies, on the producer's thread
   * @param failed told why not, on the producer's thread or this one
   */
  void send(RequestWriter.Written request, Consumer<RecordRef> sent, Consumer<MillstreamException> failed) {
    Thread caller = Thread.currentThread();
    boolean[] inside = {true};
    try {
      producer.send(
          request.record(),
          (RecordMetadata where, Exception error) -> {
            if (error == null) {
              sent.accept(new RecordRef(where.topic(), where.partition(), where.offset()));
            } else {
              // What fails before `send` returns was never in the producer's hands.
              boolean kept = !(inside[0] && Thread.currentThread() == caller);
              failed.accept(refusal(request, error, kept));
            }
          });
    } catch (KafkaException | IllegalStateException error) {
      failed.accept(refusal(request, error, false));
    } finally {
      inside[0] = false;
    }
  }

  /** Sends what was handed over, that long at most, and ends the producer. */
  void close(Duration patience) {
    producer.close(patience);
  }

  private MillstreamException refusal(RequestWriter.Written request, Exception error, boolean kept) {
    if (error instanceof RecordTooLargeException) {
      String mend = "send less, or put the data in storage and send where";
      return InvalidRequestException.beforeSending("record_too_large", error.getMessage(), "$", mend, request.id());
    }
    boolean refused = error instanceof AuthorizationException || error instanceof InvalidTopicException;
    boolean mayBeThere = kept && !refused && error instanceof ApiException;
    String outcome = mayBeThere ? "it may be on the log or not" : "it was not sent";
    String message = "the broker did not acknowledge the request on %s, %s: %s".formatted(topic, outcome, words(error));
    return new SendException(message, "see that the cluster answers and has the topic " + topic, request.id(), mayBeThere, error);
  }

  private static String words(Exception error) {
    return error.getMessage() == null ? error.getClass().getSimpleName() : error.getMessage();
  }
}
