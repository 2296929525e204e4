package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** With the node stopped nothing answers: no future is completed by anything but a node. */
@Timeout(180)
class NodeStoppedIT {
  private static final PipelineRequest REQUEST = PipelineRequest.of("java_echo", Map.of("text", "a"));

  /** The same call is answered, ends in the deadline exception with the node stopped, and is answered late by the next node. */
  @Test
  void sameCallEndsInTheDeadlineWithTheNodeStopped() throws Exception {
    BlockingQueue<PipelineResult<JsonNode>> told = new LinkedBlockingQueue<>();
    try (Millstream millstream = new MillstreamClient(ClientSettings.of(Harness.properties()).listener(told::add))) {
      NodeProcess first = NodeProcess.start();
      try (first) {
        assertEquals(first.name, millstream.call(REQUEST, JsonNode.class).get(60, TimeUnit.SECONDS).node());
      }

      CompletableFuture<PipelineResult<JsonNode>> asked = millstream.call(REQUEST.id("stays").deadline(Duration.ofSeconds(3)), JsonNode.class);
      ExecutionException ended = assertThrows(ExecutionException.class, () -> asked.get(60, TimeUnit.SECONDS));
      DeadlineException late = assertInstanceOf(DeadlineException.class, ended.getCause());

      NodeProcess second = NodeProcess.start();
      try (second) {
        PipelineResult<JsonNode> answer = told.poll(60, TimeUnit.SECONDS);
        assertEquals("stays", answer.id());
        assertEquals(late.record().orElseThrow(), answer.record());
        assertEquals(second.name, answer.node());
        assertEquals(second.name, millstream.call(REQUEST, JsonNode.class).get(60, TimeUnit.SECONDS).node());
      }
    }
  }
}
