package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The cluster comes and goes; the client stays. On a broker of its own, with a node on it. */
@Timeout(300)
class BrokerRestartIT {
  private static final PipelineRequest REQUEST = PipelineRequest.of("java_echo", Map.of("text", "a")).deadline(Duration.ofSeconds(100));

  /** One client is answered before, across and after a broker that is stopped and one that is killed. */
  @Test
  void clientOutlivesTheBroker() throws Exception {
    String bootstrap = Harness.desk("start");
    Properties properties = new Properties();
    properties.setProperty("bootstrap.servers", bootstrap);
    properties.setProperty("millstream.client", "survivor");
    properties.setProperty("delivery.timeout.ms", "60000");
    try (NodeProcess node = NodeProcess.start(bootstrap);
        Millstream millstream = new MillstreamClient(properties)) {
      awaitRelease(millstream);
      assertEquals(node.name, answered(millstream.call(REQUEST, JsonNode.class)));

      for (String end : new String[] {"stop", "kill"}) {
        Harness.desk(end);
        CompletableFuture<PipelineResult<JsonNode>> across = millstream.call(REQUEST, JsonNode.class);
        NodeProcess.pause(2000);
        Harness.desk("start");

        assertEquals(node.name, answered(across));
        assertEquals(node.name, answered(millstream.call(REQUEST, JsonNode.class)));
      }
    } finally {
      Harness.desk("kill");
    }
  }

  /** The log is new to this data directory: its node publishes there what is deployed, some seconds after it takes requests. */
  private static void awaitRelease(Millstream millstream) throws Exception {
    long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
    while (true) {
      try {
        answered(millstream.call(REQUEST, JsonNode.class));
        return;
      } catch (ExecutionException ended) {
        boolean unknown = ended.getCause() instanceof InvalidRequestException refused && refused.code().equals("unknown_pipeline");
        if (!unknown || System.nanoTime() > until) {
          throw ended;
        }
        NodeProcess.pause(200);
      }
    }
  }

  private static String answered(CompletableFuture<PipelineResult<JsonNode>> future) throws Exception {
    return future.get(100, TimeUnit.SECONDS).node();
  }
}
