package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Results that no future waits for, and results that are not what they seem. */
@Timeout(180)
class ListenersIT {
  private static NodeProcess node;

  private final BlockingQueue<Object> told = new LinkedBlockingQueue<>();
  private final ResultListener<JsonNode> listener =
      new ResultListener<>() {
        @Override
        public void onResult(PipelineResult<JsonNode> result) {
          told.add(result);
        }

        @Override
        public void onError(MillstreamException error) {
          told.add(error);
        }
      };

  record Say(String text, int times) {}

  record Echo(String text, int length) {}

  record Sleep(double seconds) {}

  @BeforeAll
  static void startNode() {
    node = NodeProcess.start();
  }

  @AfterAll
  static void stopNode() {
    node.close();
  }

  /** Whoever sends and forgets has a receipt; the client's listener is told every result, once each, good or bad. */
  @Test
  void sentAndForgottenIsToldToTheListener() throws Exception {
    try (Millstream millstream = new MillstreamClient(ClientSettings.of(Harness.properties()).listener(listener))) {
      Set<RecordRef> receipts = new HashSet<>();
      List<CompletableFuture<Receipt>> sent = new ArrayList<>();
      for (int number = 0; number < 50; number++) {
        sent.add(millstream.send(PipelineRequest.of("java_echo", new Say("n" + number, 1))));
      }
      sent.add(millstream.send(PipelineRequest.of("java_raise", Map.of("message", "on purpose")).id("bad")));
      for (CompletableFuture<Receipt> receipt : sent) {
        receipts.add(receipt.get(60, TimeUnit.SECONDS).record());
      }

      Set<RecordRef> answered = new HashSet<>();
      for (int number = 0; number < sent.size(); number++) {
        answered.add(resultOf(told.poll(60, TimeUnit.SECONDS)).record());
      }

      assertEquals(receipts, answered);
      assertNull(told.poll(500, TimeUnit.MILLISECONDS));
      assertEquals(0, millstream.waiting());
    }
  }

  /** A listener of one request is told its typed result, after the receipt was given. */
  @Test
  void listenerOfOneRequestIsToldItsResult() throws Exception {
    BlockingQueue<PipelineResult<Echo>> echoes = new LinkedBlockingQueue<>();
    try (Millstream millstream = new MillstreamClient(Harness.properties())) {
      Receipt receipt =
          millstream.send(PipelineRequest.of("java_echo", new Say("a", 3)), Echo.class, echoes::add).get(60, TimeUnit.SECONDS);

      PipelineResult<Echo> echo = echoes.poll(60, TimeUnit.SECONDS);

      assertEquals("aaa", echo.value().text());
      assertEquals(receipt.record(), echo.record());
      assertEquals(receipt.id(), echo.id());
      assertEquals(node.name, echo.node());
    }
  }

  /** Cancelling ends the waiting, not the request: its result is late, and the listener's. */
  @Test
  void cancelledCallIsAnsweredToTheListener() throws Exception {
    try (Millstream millstream = new MillstreamClient(ClientSettings.of(Harness.properties()).listener(listener))) {
      assertEquals(node.name, millstream.call(PipelineRequest.of("java_nothing"), JsonNode.class).get(60, TimeUnit.SECONDS).node());
      CompletableFuture<PipelineResult<String>> future = millstream.call(PipelineRequest.of("java_sleep", new Sleep(1)).id("late"), String.class);

      future.cancel(true);

      assertEquals(0, millstream.waiting());
      assertThrows(CancellationException.class, () -> future.get(1, TimeUnit.SECONDS));
      PipelineResult<?> late = resultOf(told.poll(60, TimeUnit.SECONDS));
      assertEquals("late", late.id());
      assertNull(told.poll(300, TimeUnit.MILLISECONDS), "results that were waited for are not told");
    }
  }

  /**
   * A result with the right id that names another record is not the call's, and a copy of a result is nobody's news. Such records
   * are written here; every future is completed by what the node wrote.
   */
  @Test
  void strangersAndCopiesAreIgnored() throws Exception {
    Properties properties = Harness.properties();
    try (Millstream millstream = new MillstreamClient(ClientSettings.of(properties).listener(listener));
        KafkaProducer<byte[], byte[]> stranger = producer(properties)) {
      assertEquals(node.name, millstream.call(PipelineRequest.of("java_nothing"), JsonNode.class).get(60, TimeUnit.SECONDS).node());
      String topic = "ml.reply." + properties.getProperty("millstream.client");
      CompletableFuture<PipelineResult<String>> asked = millstream.call(PipelineRequest.of("java_sleep", new Sleep(1.5)).id("x"), String.class);
      String forged =
          "{\"id\":\"x\",\"pipeline\":\"java_sleep\",\"tenant\":\"default\",\"status\":\"ok\",\"record\":{\"topic\":\"ml.pipeline.input\","
              + "\"partition\":0,\"offset\":9999999},\"node\":\"stranger\",\"attempt\":1,\"result\":\"forged\"}";
      for (byte[] value : List.of(forged.getBytes(StandardCharsets.UTF_8), "no result".getBytes(StandardCharsets.UTF_8), new byte[0])) {
        stranger.send(new ProducerRecord<>(topic, "x".getBytes(StandardCharsets.UTF_8), value)).get();
      }
      PipelineResult<?> news = (PipelineResult<?>) told.poll(60, TimeUnit.SECONDS);
      assertEquals("stranger", news.node());

      PipelineResult<String> result = asked.get(60, TimeUnit.SECONDS);
      assertEquals("awake", result.value());
      assertEquals(node.name, result.node());
      stranger.send(new ProducerRecord<>(topic, result.json().toString().getBytes(StandardCharsets.UTF_8))).get();
      PipelineResult<JsonNode> after = millstream.call(PipelineRequest.of("java_nothing"), JsonNode.class).get(60, TimeUnit.SECONDS);

      assertEquals(node.name, after.node());
      assertNull(told.poll(300, TimeUnit.MILLISECONDS), "a copy was told");
    }
  }

  /** The same id sent again, after its first result came, is another request: it has the result of its own record. */
  @Test
  void sameIdAgainIsAnotherRequest() throws Exception {
    try (Millstream millstream = new MillstreamClient(Harness.properties())) {
      PipelineRequest request = PipelineRequest.of("java_echo", new Say("a", 1)).id("again");
      PipelineResult<Echo> first = millstream.call(request, Echo.class).get(60, TimeUnit.SECONDS);
      PipelineResult<Echo> second = millstream.call(request.params(new Say("b", 1)), Echo.class).get(60, TimeUnit.SECONDS);

      assertEquals("a", first.value().text());
      assertEquals("b", second.value().text());
      assertFalse(first.record().equals(second.record()));
      assertEquals(List.of(node.name, node.name), List.of(first.node(), second.node()));
    }
  }

  /** A slow listener holds up the reading, never grows it: with room for two, all forty come. */
  @Test
  void slowListenerIsBounded() throws Exception {
    ResultListener<JsonNode> slow =
        result -> {
          NodeProcess.pause(20);
          told.add(result);
        };
    try (Millstream millstream = new MillstreamClient(ClientSettings.of(Harness.properties()).listener(slow).maxWaiting(2))) {
      for (int number = 0; number < 40; number++) {
        millstream.send(PipelineRequest.of("java_echo", new Say("n" + number, 1))).get(60, TimeUnit.SECONDS);
      }

      for (int number = 0; number < 40; number++) {
        assertEquals(node.name, resultOf(told.poll(60, TimeUnit.SECONDS)).node());
      }
    }
  }

  /** A client that reads nothing sends all the same, and cannot wait. */
  @Test
  void clientWithoutRepliesOnlySends() throws Exception {
    Properties properties = Harness.properties();
    properties.setProperty("millstream.replies", "none");
    try (Millstream millstream = new MillstreamClient(properties)) {
      Receipt receipt = millstream.send(PipelineRequest.of("java_nothing")).get(60, TimeUnit.SECONDS);

      assertEquals("ml.pipeline.input", receipt.record().topic());
      assertThrows(IllegalStateException.class, () -> millstream.call(PipelineRequest.of("java_nothing"), JsonNode.class));
    }
  }

  /** A reply topic that nobody made is not made up: the deadline says that it is missing. */
  @Test
  void namedReplyTopicMustBeThere() {
    Properties properties = Harness.properties();
    properties.setProperty("millstream.replies", "ml.reply.nobody-made-this");
    try (Millstream millstream = new MillstreamClient(properties)) {
      CompletableFuture<?> asked = millstream.call(PipelineRequest.of("java_nothing").deadline(Duration.ofSeconds(2)), JsonNode.class);

      ExecutionException ended = assertThrows(ExecutionException.class, () -> asked.get(60, TimeUnit.SECONDS));

      DeadlineException late = assertInstanceOf(DeadlineException.class, ended.getCause());
      assertEquals(true, late.getMessage().contains("there is no topic ml.reply.nobody-made-this"), late.getMessage());
    }
  }

  private static PipelineResult<?> resultOf(Object news) {
    PipelineResult<?> result = news instanceof RequestException error ? error.result().orElseThrow() : (PipelineResult<?>) news;
    assertEquals(node.name, result.node());
    return result;
  }

  private static KafkaProducer<byte[], byte[]> producer(Properties properties) {
    Map<String, Object> settings = new HashMap<>();
    properties.stringPropertyNames().stream()
        .filter(name -> !name.startsWith("millstream."))
        .forEach(name -> settings.put(name, properties.getProperty(name)));
    return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
  }
}
