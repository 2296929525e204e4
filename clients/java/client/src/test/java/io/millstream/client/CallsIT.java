package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Calls to a node that works: what comes back, in every way in which a request can end. */
@Timeout(180)
class CallsIT {
  private static final TraceContext TRACE = new TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1");
  private static NodeProcess node;
  private static Millstream millstream;

  record Say(String text, int times) {}

  record Echo(String text, int length) {}

  record Point(double x, double y) {}

  record Points(List<Point> points) {}

  record Sleep(double seconds) {}

  record Values(List<Double> values) {}

  record Trained(String model, int version, @JsonProperty("run") String runId) {}

  @BeforeAll
  static void startNode() {
    node = NodeProcess.start();
    millstream = new MillstreamClient(Harness.properties());
  }

  @AfterAll
  static void stopNode() {
    millstream.close();
    node.close();
  }

  /** Records go in and come out, in either spelling and by either way back, and the result says who answered what. */
  @ParameterizedTest
  @CsvSource({"plain,own", "plain,output", "cloudevents,own", "cloudevents,output"})
  void recordsGoInAndComeOut(String spelling, String replies) {
    Properties properties = Harness.properties();
    properties.setProperty("millstream.spelling", spelling);
    properties.setProperty("millstream.replies", replies);
    PipelineRequest request = PipelineRequest.of("java_echo", new Say("é😀", 3)).tenant("acme").timeout(Duration.ofSeconds(20)).trace(TRACE);
    try (Millstream client = new MillstreamClient(properties)) {
      PipelineResult<Echo> result = join(client.call(request, Echo.class));

      assertEquals(new Echo("é😀é😀é😀", 6), result.value());
      assertEquals(Status.OK, result.status());
      assertEquals("java_echo", result.pipeline());
      assertEquals("acme", result.tenant());
      assertEquals("javatest==1.0.0", result.release());
      assertTrue(result.buildId().startsWith("1.0.0+"), result.buildId());
      assertEquals(1, result.attempt());
      assertEquals("ml.pipeline.input", result.record().topic());
      assertEquals(Optional.of(TRACE), result.trace());
      assertByNode(result);
    }
  }

  /** Types with parameters of their own are read too. */
  @Test
  void listsAreRead() {
    PipelineRequest request = PipelineRequest.of("java_swap", new Points(List.of(new Point(1, 2), new Point(3, 4))));

    PipelineResult<List<Point>> result = join(millstream.call(request, new TypeReference<List<Point>>() {}));

    assertEquals(List.of(new Point(2, 1), new Point(4, 3)), result.value());
    assertByNode(result);
  }

  /** A pipeline that returns nothing is answered with null. */
  @Test
  void nothingIsNull() {
    PipelineResult<JsonNode> result = join(millstream.call(PipelineRequest.of("java_nothing"), JsonNode.class));

    assertEquals(Status.OK, result.status());
    assertTrue(result.value() == null || result.value().isNull());
    assertByNode(result);
  }

  /** A training is long work: its result has a run, and the model that it made answers from then on. */
  @Test
  void trainingMakesAModelThatAnswers() {
    PipelineRequest train = PipelineRequest.of("sensors_train", new Values(List.of(19.8, 20.0, 20.2))).tenant("java-trained");
    PipelineResult<Trained> trained = join(millstream.call(train, Trained.class));
    assertEquals("java-trained.sensors", trained.value().model());
    assertFalse(trained.run().isEmpty());
    assertByNode(trained);

    PipelineRequest judge = PipelineRequest.of("sensors_judge", Map.of("reading", Map.of("sensor", "door", "value", 99))).tenant("java-trained");
    PipelineResult<JsonNode> judged = join(millstream.call(judge, JsonNode.class));

    assertTrue(judged.value().path("unusual").asBoolean());
    assertEquals("java-trained.sensors", judged.model());
    assertEquals(trained.value().version(), judged.modelVersion());
    assertByNode(judged);
  }

  /** What the caller must change is an InvalidRequestException with the platform's code, path and mend. */
  @Test
  void callersFaultsAreInvalid() {
    InvalidRequestException unknown = ends(InvalidRequestException.class, PipelineRequest.of("java_ehco"));
    assertEquals("unknown_pipeline", unknown.code());
    assertTrue(unknown.getMessage().contains("java_echo"), unknown.getMessage());
    assertFalse(unknown.mend().isEmpty());

    InvalidRequestException parameters = ends(InvalidRequestException.class, PipelineRequest.of("java_swap", Map.of("points", List.of(Map.of("x", "left")))));
    assertEquals("bad_parameters", parameters.code());
    assertTrue(parameters.path().startsWith("$.points[0]"), parameters.path());

    InvalidRequestException noModel =
        ends(InvalidRequestException.class, PipelineRequest.of("sensors_judge", Map.of("reading", Map.of("sensor", "a", "value", 1))).tenant("nobody"));
    assertEquals("no_model", noModel.code());

    InvalidRequestException notANumber = ends(InvalidRequestException.class, PipelineRequest.of("java_sleep", new Sleep(Double.NaN)));
    assertEquals("bad_request", notANumber.code());
    assertEquals("$.params.seconds", notANumber.path());
  }

  /** Pipeline code that raises is a FailedException with its words. */
  @Test
  void raisingIsFailed() {
    FailedException failed = ends(FailedException.class, PipelineRequest.of("java_raise", Map.of("message", "on purpose")));

    assertEquals("pipeline_raised", failed.code());
    assertTrue(failed.getMessage().contains("on purpose"), failed.getMessage());
  }

  /** A request whose timeout passes is expired, said by the platform before the caller stops waiting. */
  @Test
  void timeoutIsExpired() {
    ExpiredException expired = ends(ExpiredException.class, PipelineRequest.of("java_sleep", new Sleep(1.5)).timeout(Duration.ofMillis(300)));

    assertEquals("expired", expired.code());
  }

  /** A request that ends its worker every time is dead. */
  @Test
  void endingTheWorkerIsDead() {
    DeadException dead = ends(DeadException.class, PipelineRequest.of("java_exit", Map.of("code", 3)));

    assertEquals("worker_died", dead.code());
    assertEquals(3, dead.result().orElseThrow().attempt());
  }

  /** A caller who waits less than the pipeline takes has the deadline exception, with the place of the request on the log. */
  @Test
  void deadlineEndsTheWaiting() {
    PipelineRequest request = PipelineRequest.of("java_sleep", new Sleep(1)).deadline(Duration.ofMillis(400));

    DeadlineException late = assertInstanceOf(DeadlineException.class, failure(millstream.call(request, String.class)));

    assertEquals("ml.pipeline.input", late.record().orElseThrow().topic());
    assertTrue(late.getMessage().contains("within 0.4 s; the request stays on the log, at ml.pipeline.input/"), late.getMessage());
  }

  /** A value that does not fit is told, with the result; the future of another type has its value. */
  @Test
  void otherTypeIsTold() {
    PipelineRequest request = PipelineRequest.of("java_echo", new Say("a", 1));

    ResultTypeException unfit = assertInstanceOf(ResultTypeException.class, failure(millstream.call(request, Point[].class)));

    assertEquals("a", unfit.result().orElseThrow().value().path("text").asText());
    assertByNode(unfit.result().orElseThrow());
  }

  /** More than a record may hold is refused before it is sent; megabytes that fit come and go. */
  @Test
  void largeRequestsPassAndTooLargeOnesAreRefused() {
    PipelineRequest large = PipelineRequest.of("java_echo", new Say("x".repeat(2_000_000), 1));
    PipelineResult<Echo> result = join(millstream.call(large, Echo.class));
    assertEquals(2_000_000, result.value().length());
    assertByNode(result);

    InvalidRequestException refused =
        assertInstanceOf(InvalidRequestException.class, failure(millstream.call(large.params(new Say("x".repeat(9_000_000), 1)), Echo.class)));
    assertEquals("record_too_large", refused.code());
  }

  /** Many threads share one client, and each has its own answers. */
  @Test
  void threadsShareAClient() {
    int callers = 8;
    int calls = 250;
    List<CompletableFuture<List<PipelineResult<Echo>>>> all = new ArrayList<>();
    for (int caller = 0; caller < callers; caller++) {
      String name = "caller " + caller + " call ";
      all.add(CompletableFuture.supplyAsync(() -> manyCalls(name, calls)));
    }

    List<PipelineResult<Echo>> results = all.stream().flatMap(each -> join(each).stream()).toList();

    assertEquals(callers * calls, results.size());
    assertEquals(callers * calls, results.stream().map(PipelineResult::record).distinct().count());
    results.forEach(CallsIT::assertByNode);
    assertEquals(0, millstream.waiting());
  }

  private static List<PipelineResult<Echo>> manyCalls(String name, int calls) {
    List<CompletableFuture<PipelineResult<Echo>>> futures = new ArrayList<>();
    for (int call = 0; call < calls; call++) {
      futures.add(millstream.call(PipelineRequest.of("java_echo", new Say(name + call, 1)), Echo.class));
    }
    List<PipelineResult<Echo>> results = futures.stream().map(CallsIT::join).toList();
    for (int call = 0; call < calls; call++) {
      assertEquals(name + call, results.get(call).value().text());
    }
    return results;
  }

  /** Callbacks may call again, also where one request alone may wait. */
  @Test
  void callbacksMayCallAgain() {
    try (Millstream client = new MillstreamClient(ClientSettings.of(Harness.properties()).maxWaiting(1))) {
      CompletableFuture<PipelineResult<Echo>> chain = client.call(PipelineRequest.of("java_echo", new Say("a", 1)), Echo.class);
      for (int step = 0; step < 5; step++) {
        chain = chain.thenCompose(last -> client.call(PipelineRequest.of("java_echo", new Say(last.value().text(), 2)), Echo.class));
      }

      PipelineResult<Echo> result = join(chain);

      assertEquals("a".repeat(32), result.value().text());
      assertByNode(result);
    }
  }

  /** An orderly close waits for what was asked. */
  @Test
  void orderlyCloseWaitsForResults() {
    MillstreamClient client = new MillstreamClient(Harness.properties());
    CompletableFuture<PipelineResult<String>> asked = client.call(PipelineRequest.of("java_sleep", new Sleep(0.5)), String.class);

    client.close(Duration.ofSeconds(20));

    assertTrue(asked.isDone());
    assertEquals("awake", join(asked).value());
    assertByNode(join(asked));
  }

  /** A hasty close ends the waiting; the request is on the log and is answered to whoever listens there. */
  @Test
  void hastyCloseEndsTheWaiting() {
    MillstreamClient client = new MillstreamClient(Harness.properties());
    assertByNode(join(client.call(PipelineRequest.of("java_nothing"), JsonNode.class)));
    CompletableFuture<PipelineResult<String>> asked = client.call(PipelineRequest.of("java_sleep", new Sleep(1)), String.class);

    client.close();

    assertInstanceOf(ClientClosedException.class, failure(asked));
  }

  /** Two processes of one application share its reply topic, and each has its own answers. */
  @Test
  void applicationsMayHaveSeveralProcesses() {
    Properties properties = Harness.properties();
    try (Millstream one = new MillstreamClient(properties);
        Millstream other = new MillstreamClient(properties)) {
      CompletableFuture<PipelineResult<Echo>> first = one.call(PipelineRequest.of("java_echo", new Say("one", 1)), Echo.class);
      CompletableFuture<PipelineResult<Echo>> second = other.call(PipelineRequest.of("java_echo", new Say("other", 1)), Echo.class);

      assertEquals("one", join(first).value().text());
      assertEquals("other", join(second).value().text());
      assertNotEquals(join(first).record(), join(second).record());
      assertByNode(join(first));
      assertByNode(join(second));
    }
  }

  /** A reply topic that the platform may not answer on ends with the deadline, whose mend names the setting. */
  @Test
  void forbiddenReplyTopicIsNamed() {
    Properties properties = Harness.properties();
    properties.setProperty("millstream.replies", ClientSettings.OUTPUT);
    try (Millstream client = new MillstreamClient(properties)) {
      assertByNode(join(client.call(PipelineRequest.of("java_nothing"), JsonNode.class)));
    }
    properties.setProperty("millstream.replies", "ml.pipeline.dlq");
    try (Millstream client = new MillstreamClient(properties)) {
      PipelineRequest request = PipelineRequest.of("java_nothing").deadline(Duration.ofSeconds(3));
      DeadlineException late = assertInstanceOf(DeadlineException.class, failure(client.call(request, JsonNode.class)));
      assertTrue(late.mend().contains("node.reply_topics"), late.mend());
    }
  }

  // --- what the tests share --------------------------------------------------------------------------------------------------

  private static <T> T join(CompletableFuture<T> future) {
    return future.orTimeout(90, TimeUnit.SECONDS).join();
  }

  private static Throwable failure(CompletableFuture<?> future) {
    return assertThrows(CompletionException.class, () -> join(future)).getCause();
  }

  private static <E extends RequestException> E ends(Class<E> type, PipelineRequest request) {
    E ended = assertInstanceOf(type, failure(millstream.call(request, JsonNode.class)));
    PipelineResult<JsonNode> result = ended.result().orElseThrow();
    assertNull(result.value());
    assertEquals(ended.requestId(), result.id());
    assertByNode(result);
    return ended;
  }

  private static void assertByNode(PipelineResult<?> result) {
    assertEquals(node.name, result.node());
  }
}
