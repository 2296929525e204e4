package io.millstream.client;

import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** The properties of the three Kafka clients: what the promise needs is fixed, what is a matter of taste can be changed. */
final class KafkaProperties {
  /** How long the broker may be away before a request is given up; Kafka's two minutes outlive most callers. */
  static final String DELIVERY_TIMEOUT_MS = "30000";

  /** Fixed, since a request that was acknowledged must be there, once, and a result must be committed. */
  private static final Map<String, String> FIXED =
      Map.of(
          ProducerConfig.ACKS_CONFIG, "all",
          ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, "true",
          ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");

  /** These would change which records are read or written where, or when a call returns. */
  private static final Set<String> NOT_TAKEN =
      Set.of(
          ConsumerConfig.GROUP_ID_CONFIG,
          ProducerConfig.TRANSACTIONAL_ID_CONFIG,
          ProducerConfig.MAX_BLOCK_MS_CONFIG,
          ProducerConfig.PARTITIONER_CLASS_CONFIG,
          ProducerConfig.PARTITIONER_IGNORE_KEYS_CONFIG,
          ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG,
          ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG,
          ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG,
          ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG,
          ConsumerConfig.AUTO_OFFSET_RESET_CONFIG,
          ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG);

  private KafkaProperties() {}

  /** Refuses what would break the promise. */
  static void check(Map<String, String> given) {
    for (Map.Entry<String, String> property : given.entrySet()) {
      String name = property.getKey();
      String value = property.getValue();
      String fixed = FIXED.get(name);
      boolean same = fixed == null || fixed.equals(value) || (name.equals(ProducerConfig.ACKS_CONFIG) && value.equals("-1"));
      if (!same) {
        throw new IllegalArgumentException("%s is always %s, since no request may be lost or doubled; given is %s".formatted(name, fixed, value));
      }
      if (NOT_TAKEN.contains(name)) {
        throw new IllegalArgumentException(name + " is the client's to set, leave it out");
      }
    }
  }

  static Map<String, Object> producer(ClientSettings settings) {
    Map<String, Object> properties = new HashMap<>();
    // A request is sent at once; what comes meanwhile shares the next batch.
    properties.put(ProducerConfig.LINGER_MS_CONFIG, "0");
    properties.put(ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, DELIVERY_TIMEOUT_MS);
    // As much as the platform's topics take by default; Kafka's own is 1 MiB.
    properties.put(ProducerConfig.MAX_REQUEST_SIZE_CONFIG, String.valueOf(8 * 1024 * 1024));
    properties.putAll(fitting(settings, ProducerConfig.configNames()));
    // A call never holds up its thread: what the producer cannot take now, RequestSender keeps and tries again.
    properties.put(ProducerConfig.MAX_BLOCK_MS_CONFIG, "0");
    properties.put(ProducerConfig.ACKS_CONFIG, "all");
    properties.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, "true");
    properties.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
    properties.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
    return properties;
  }

  static Map<String, Object> consumer(ClientSettings settings) {
    Map<String, Object> properties = new HashMap<>();
    // How late partitions are seen that were added to the reply topic, or that it is gone; Kafka's five minutes outlive most callers.
    properties.put(ConsumerConfig.METADATA_MAX_AGE_CONFIG, "10000");
    properties.putAll(fitting(settings, ConsumerConfig.configNames()));
    properties.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
    properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
    properties.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, "false");
    // Positions are set by hand; this is for one that is gone, after a topic was made anew or retention overtook the client.
    properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    properties.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, StringDeserializer.class);
    properties.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
    return properties;
  }

  static Map<String, Object> admin(ClientSettings settings) {
    return fitting(settings, AdminClientConfig.configNames());
  }

  /** What one Kafka client knows, and what none does: settings of plug-ins. What another one knows would only be warned about. */
  private static Map<String, Object> fitting(ClientSettings settings, Set<String> known) {
    Map<String, Object> properties = new HashMap<>();
    properties.put("client.id", settings.client());
    settings.kafka().forEach(
        (name, value) -> {
          if (known.contains(name) || !knownToAny(name)) {
            properties.put(name, value);
          }
        });
    return properties;
  }

  private static boolean knownToAny(String name) {
    return ProducerConfig.configNames().contains(name)
        || ConsumerConfig.configNames().contains(name)
        || AdminClientConfig.configNames().contains(name);
  }
}
