package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What properties mean, and which are refused. */
class ClientSettingsTest {

  /** Where results are read follows from one property. */
  @ParameterizedTest
  @CsvSource({"own,ml.reply.billing,ml.reply.billing", "output,ml.pipeline.output,''", "ml.reply.all,ml.reply.all,ml.reply.all"})
  void repliesNameATopic(String replies, String topic, String replyTo) {
    ClientSettings settings = settings(Map.of("millstream.client", "billing", "millstream.replies", replies));

    assertEquals(Optional.of(topic), settings.replyTopic());
    assertEquals(replyTo, settings.replyTo());
    assertEquals(replies.equals("own"), settings.makesReplyTopic());
  }

  /** A client that only sends reads nothing. */
  @Test
  void noRepliesIsNoTopic() {
    ClientSettings settings = settings(Map.of("millstream.replies", "none"));

    assertEquals(Optional.empty(), settings.replyTopic());
    assertEquals("", settings.replyTo());
  }

  /** What cannot be used is refused at once, and named. */
  @ParameterizedTest
  @CsvSource({
    "millstream.cleint,billing",
    "millstream.client,bill ing",
    "millstream.spelling,avro",
    "millstream.deadline.ms,soon",
    "millstream.deadline.ms,0",
    "millstream.max.waiting,-1",
    "acks,1",
    "enable.idempotence,false",
    "isolation.level,read_uncommitted",
    "group.id,mine",
    "partitioner.class,Mine",
    "bootstrap.servers,''"
  })
  void unusablePropertiesAreNamed(String name, String value) {
    IllegalArgumentException refused = assertThrows(IllegalArgumentException.class, () -> settings(Map.of(name, value)));

    assertTrue(refused.getMessage().contains(name) || refused.getMessage().contains(value), refused.getMessage());
  }

  /** Kafka's own properties go to the clients that know them, those of plug-ins to all. */
  @Test
  void kafkaPropertiesGoWhereTheyBelong() {
    ClientSettings settings =
        settings(Map.of("security.protocol", "SSL", "linger.ms", "5", "fetch.min.bytes", "7", "acks", "-1", "my.plugin.token", "t"));

    Map<String, Object> producer = KafkaProperties.producer(settings);
    Map<String, Object> consumer = KafkaProperties.consumer(settings);
    assertEquals("5", producer.get("linger.ms"));
    assertEquals("all", producer.get("acks"));
    assertFalse(producer.containsKey("fetch.min.bytes"));
    assertEquals("7", consumer.get("fetch.min.bytes"));
    assertEquals("read_committed", consumer.get("isolation.level"));
    assertFalse(consumer.containsKey("linger.ms"));
    for (Map<String, Object> each : java.util.List.of(producer, consumer, KafkaProperties.admin(settings))) {
      assertEquals("SSL", each.get("security.protocol"));
      assertEquals("t", each.get("my.plugin.token"));
    }
  }

  /** Settings are values: changing one makes another. */
  @Test
  void settingsAreImmutable() {
    ClientSettings settings = settings(Map.of("millstream.deadline.ms", "1500"));

    ClientSettings other = settings.deadline(Duration.ofSeconds(9)).maxWaiting(3);

    assertEquals(Duration.ofMillis(1500), settings.deadline());
    assertEquals(10_000, settings.maxWaiting());
    assertEquals(Duration.ofSeconds(9), other.deadline());
    assertEquals(3, other.maxWaiting());
    assertThrows(IllegalArgumentException.class, () -> settings.maxWaiting(0));
    assertThrows(IllegalArgumentException.class, () -> settings.deadline(Duration.ZERO));
  }

  /** A property of Kafka that Kafka refuses is an argument's fault, told by the constructor. */
  @Test
  void kafkasOwnRefusalIsTold() {
    IllegalArgumentException refused =
        assertThrows(IllegalArgumentException.class, () -> new MillstreamClient(settings(Map.of("compression.type", "rar"))));

    assertTrue(refused.getMessage().contains("compression.type"), refused.getMessage());
  }

  /** A traceparent that is none is refused where it is made. */
  @Test
  void traceparentHasAForm() {
    assertThrows(IllegalArgumentException.class, () -> TraceContext.of("4bf92f3577b34da6"));
  }

  private static ClientSettings settings(Map<String, String> given) {
    Properties properties = new Properties();
    properties.setProperty("bootstrap.servers", "localhost:9");
    properties.putAll(given);
    return ClientSettings.of(properties);
  }
}
