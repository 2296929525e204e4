package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What a client does while nobody listens where the cluster should be. */
@Timeout(30)
class UnreachableClusterTest {
  private static final PipelineRequest REQUEST = PipelineRequest.of("detect").id("1");

  private Properties properties;

  @BeforeEach
  void nobodyListens() throws IOException {
    properties = new Properties();
    properties.setProperty("millstream.client", "lonely");
    try (ServerSocket socket = new ServerSocket(0)) {
      properties.setProperty("bootstrap.servers", "127.0.0.1:" + socket.getLocalPort());
    }
    // What Kafka's clients wait for an answer; their own minute would be this test's.
    properties.setProperty("default.api.timeout.ms", "2000");
    properties.setProperty("request.timeout.ms", "1000");
    properties.setProperty("delivery.timeout.ms", "1500");
  }

  /** A call ends with the deadline exception, which says that nothing was sent and why. */
  @Test
  void callEndsWithItsDeadline() {
    try (Millstream millstream = new MillstreamClient(properties)) {
      DeadlineException late = deadline(millstream.call(REQUEST.deadline(Duration.ofMillis(300)), JsonNode.class));

      assertEquals("timeout", late.code());
      assertEquals("1", late.requestId());
      assertTrue(late.record().isEmpty());
      assertTrue(late.getMessage().startsWith("no result of detect within 0.3 s; the request was not sent"), late.getMessage());
      assertTrue(late.mend().contains("millstream status"), late.mend());
      assertEquals(0, millstream.waiting());
    }
  }

  /** What cannot be sent is told with its receipt, and certainly is not on the log. */
  @Test
  void sendEndsWithoutReceipt() {
    properties.setProperty("millstream.replies", "none");
    try (Millstream millstream = new MillstreamClient(properties)) {
      SendException failed = assertInstanceOf(SendException.class, failure(millstream.send(REQUEST)));

      assertEquals("log_unavailable", failed.code());
      assertFalse(failed.mayBeOnTheLog());
    }
  }

  /** No more requests wait than may; a place is free again after a deadline or a cancellation, before its callbacks run. */
  @Test
  void waitingIsBounded() {
    try (Millstream millstream = new MillstreamClient(ClientSettings.of(properties).maxWaiting(2))) {
      CompletableFuture<?> first = millstream.call(PipelineRequest.of("a").deadline(Duration.ofSeconds(20)), JsonNode.class);
      CompletableFuture<PipelineResult<JsonNode>> second =
          millstream.call(PipelineRequest.of("b").deadline(Duration.ofMillis(300)), JsonNode.class);
      assertInstanceOf(TooManyWaitingException.class, failure(millstream.call(PipelineRequest.of("c"), JsonNode.class)));
      assertEquals(2, millstream.waiting());

      CompletableFuture<PipelineResult<JsonNode>> next =
          second.exceptionallyCompose(late -> millstream.call(PipelineRequest.of("d").deadline(Duration.ofMillis(100)), JsonNode.class));
      assertInstanceOf(DeadlineException.class, failure(next));

      first.cancel(true);
      assertEquals(0, millstream.waiting());
    }
  }

  /** One id waits once: its results could not be told apart while neither record is known. */
  @Test
  void oneIdWaitsOnce() {
    try (Millstream millstream = new MillstreamClient(properties)) {
      millstream.call(REQUEST, JsonNode.class);

      InvalidRequestException refused = assertInstanceOf(InvalidRequestException.class, failure(millstream.call(REQUEST, JsonNode.class)));

      assertEquals("$.id", refused.path());
      assertEquals(1, millstream.waiting());
    }
  }

  /** Closing ends what waits, and everything after it. */
  @Test
  void closingEndsWhatWaits() {
    MillstreamClient millstream = new MillstreamClient(properties);
    List<CompletableFuture<PipelineResult<JsonNode>>> waiting = new ArrayList<>();
    for (int i = 0; i < 100; i++) {
      waiting.add(millstream.call(PipelineRequest.of("detect"), JsonNode.class));
    }

    millstream.close();
    millstream.close();

    waiting.forEach(future -> assertInstanceOf(ClientClosedException.class, failure(future)));
    assertInstanceOf(ClientClosedException.class, failure(millstream.call(REQUEST, JsonNode.class)));
    assertInstanceOf(ClientClosedException.class, failure(millstream.send(REQUEST)));
    assertEquals(0, millstream.waiting());
  }

  /** A callback may close the client that calls it. */
  @Test
  void callbackMayCloseTheClient() throws InterruptedException {
    MillstreamClient millstream = new MillstreamClient(properties);
    CountDownLatch closed = new CountDownLatch(1);

    millstream
        .call(REQUEST.deadline(Duration.ofMillis(100)), JsonNode.class)
        .whenComplete(
            (result, error) -> {
              millstream.close();
              closed.countDown();
            });

    assertTrue(closed.await(20, TimeUnit.SECONDS));
  }

  /** A listener is told of the deadline, and so is the receipt. */
  @Test
  void listenerIsToldOfTheDeadline() throws InterruptedException {
    AtomicReference<MillstreamException> told = new AtomicReference<>();
    CountDownLatch done = new CountDownLatch(1);
    ResultListener<JsonNode> listener =
        new ResultListener<>() {
          @Override
          public void onResult(PipelineResult<JsonNode> result) {
            throw new AssertionError("there is nobody who could answer");
          }

          @Override
          public void onError(MillstreamException error) {
            told.set(error);
            done.countDown();
          }
        };
    try (Millstream millstream = new MillstreamClient(properties)) {
      CompletableFuture<Receipt> receipt = millstream.send(REQUEST.deadline(Duration.ofMillis(200)), JsonNode.class, listener);

      assertInstanceOf(DeadlineException.class, failure(receipt));
      assertTrue(done.await(10, TimeUnit.SECONDS));
      assertInstanceOf(DeadlineException.class, told.get());
    }
  }

  /** What a callback throws harms nobody else. */
  @Test
  void throwingCallbackHarmsNobody() {
    try (Millstream millstream = new MillstreamClient(properties)) {
      millstream.send(
          PipelineRequest.of("a").deadline(Duration.ofMillis(100)),
          JsonNode.class,
          new ResultListener<>() {
            @Override
            public void onResult(PipelineResult<JsonNode> result) {}

            @Override
            public void onError(MillstreamException error) {
              throw new IllegalStateException("on purpose");
            }
          });

      deadline(millstream.call(PipelineRequest.of("b").deadline(Duration.ofMillis(300)), JsonNode.class));
    }
  }

  /** Callbacks run on the application's executor where it brings one. */
  @Test
  void callbacksRunOnTheExecutorThatIsGiven() {
    AtomicReference<String> ranOn = new AtomicReference<>();
    ClientSettings settings =
        ClientSettings.of(properties)
            .executor(
                task -> {
                  Thread thread = new Thread(task, "the application's");
                  thread.start();
                });
    try (Millstream millstream = new MillstreamClient(settings)) {
      CompletableFuture<?> seen =
          millstream
              .call(REQUEST.deadline(Duration.ofMillis(100)), JsonNode.class)
              .whenComplete((result, error) -> ranOn.set(Thread.currentThread().getName()));

      failure(seen);
      assertEquals("the application's", ranOn.get());
    }
  }

  private static DeadlineException deadline(CompletableFuture<?> future) {
    return assertInstanceOf(DeadlineException.class, failure(future));
  }

  private static Throwable failure(CompletableFuture<?> future) {
    return assertThrows(CompletionException.class, () -> future.orTimeout(20, TimeUnit.SECONDS).join()).getCause();
  }
}
