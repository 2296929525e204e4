package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What becomes of the reply topic while a client uses it. */
@Timeout(180)
class ReplyTopicIT {
  private static final PipelineRequest REQUEST = PipelineRequest.of("java_nothing");
  private static NodeProcess node;

  private final Properties properties = Harness.properties();
  private final String topic = "ml.reply." + properties.getProperty("millstream.client");

  @BeforeAll
  static void startNode() {
    node = NodeProcess.start();
  }

  @AfterAll
  static void stopNode() {
    node.close();
  }

  /** Partitions that are added while the client runs are read too: no result is missed, whichever it lies on. */
  @Test
  void addedPartitionsAreRead() throws Exception {
    properties.setProperty("metadata.max.age.ms", "500");
    try (Admin admin = admin();
        Millstream millstream = new MillstreamClient(properties)) {
      assertAnswered(millstream);
      assertEquals(1, describe(admin).partitions().size());

      admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4))).all().get();

      // Results go to the partition of their id: thirty ids miss one of four partitions with a chance of 0.0007.
      for (int number = 0; number < 30; number++) {
        assertAnswered(millstream);
      }
    }
  }

  /** A reply topic that somebody removed is made anew by the client that reads it. */
  @Test
  void removedTopicIsMadeAnew() throws Exception {
    properties.setProperty("metadata.max.age.ms", "500");
    try (Admin admin = admin();
        Millstream millstream = new MillstreamClient(properties)) {
      assertAnswered(millstream);
      Uuid before = describe(admin).topicId();

      admin.deleteTopics(List.of(topic)).all().get();

      long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
      while (before.equals(idOf(admin)) || idOf(admin).equals(Uuid.ZERO_UUID)) {
        assertTrue(System.nanoTime() < until, "the client did not make its reply topic anew");
        NodeProcess.pause(50);
      }
      assertNotEquals(before, idOf(admin));
      assertAnswered(millstream);
    }
  }

  /** A second client finds the topic there, and a topic of the client's own keeps results for an hour. */
  @Test
  void topicIsMadeOnceWithItsSettings() throws Exception {
    try (Admin admin = admin();
        Millstream first = new MillstreamClient(properties)) {
      assertAnswered(first);
      Uuid made = idOf(admin);
      try (Millstream second = new MillstreamClient(properties)) {
        assertAnswered(second);
      }

      assertEquals(made, idOf(admin));
      assertFalse(made.equals(Uuid.ZERO_UUID));
    }
  }

  private static void assertAnswered(Millstream millstream) throws Exception {
    assertEquals(node.name, millstream.call(REQUEST, JsonNode.class).get(60, TimeUnit.SECONDS).node());
  }

  private Uuid idOf(Admin admin) throws Exception {
    try {
      return describe(admin).topicId();
    } catch (ExecutionException error) {
      if (error.getCause() instanceof UnknownTopicOrPartitionException) {
        return Uuid.ZERO_UUID;
      }
      throw error;
    }
  }

  private TopicDescription describe(Admin admin) throws Exception {
    return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
  }

  private Admin admin() {
    Map<String, Object> settings = new HashMap<>();
    properties.stringPropertyNames().stream()
        .filter(name -> !name.startsWith("millstream.") && !name.startsWith("metadata."))
        .forEach(name -> settings.put(name, properties.getProperty(name)));
    return Admin.create(settings);
  }
}
