package io.millstream.example;

import io.millstream.client.InvalidRequestException;
import io.millstream.client.Millstream;
import io.millstream.client.MillstreamClient;
import io.millstream.client.PipelineRequest;
import io.millstream.client.PipelineResult;
import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

/**
 * Trains a tenant's model and asks it: for the package that {@code millstream init sensors} writes, built, published and deployed.
 *
 * <p>Its one argument is a file of properties, or a cluster's HOST:PORT.
 */
public final class Sensors {
  /** What {@code sensors_train} takes and gives. */
  record Values(List<Double> values) {}

  record Trained(String model, int version) {}

  /** What {@code sensors_judge} takes and gives. */
  record Reading(String sensor, double value) {}

  record Question(Reading reading) {}

  record Verdict(double score, boolean unusual) {}

  private final Millstream millstream;
  private final PipelineRequest judge;

  /** As a service of an application is given its collaborators. */
  Sensors(Millstream millstream, String tenant) {
    this.millstream = millstream;
    judge = PipelineRequest.of("sensors_judge").tenant(tenant).timeout(Duration.ofSeconds(10));
  }

  /**
   * Runs the example.
   *
   * @param arguments a file of properties, or HOST:PORT
   * @throws IOException the file cannot be read
   */
  public static void main(String[] arguments) throws IOException {
    try (Millstream millstream = new MillstreamClient(properties(arguments.length == 0 ? "localhost:9092" : arguments[0]))) {
      PipelineRequest train = PipelineRequest.of("sensors_train", new Values(List.of(20.0, 20.5, 19.5, 20.2, 19.8))).tenant("acme");
      Trained trained = millstream.call(train.deadline(Duration.ofMinutes(5)), Trained.class).join().value();
      System.out.printf("%s version %d is trained%n", trained.model(), trained.version());

      Sensors sensors = new Sensors(millstream, "acme");
      List<CompletableFuture<PipelineResult<Verdict>>> asked =
          List.of(20.1, 27.5).stream().map(value -> sensors.judge(new Reading("door", value))).toList();
      for (CompletableFuture<PipelineResult<Verdict>> verdict : asked) {
        PipelineResult<Verdict> result = verdict.join();
        System.out.printf("%s by node %s, release %s, try %d%n", result.value(), result.node(), result.release(), result.attempt());
      }
      sensors.askWrongly();
    }
  }

  CompletableFuture<PipelineResult<Verdict>> judge(Reading reading) {
    return millstream.call(judge.params(new Question(reading)), Verdict.class);
  }

  /** A mistake of the caller: refused with its place, before any code of the pipeline runs. */
  private void askWrongly() {
    PipelineRequest wrong = judge.params(Map.of("reading", Map.of("sensor", "door", "value", "warm")));
    try {
      millstream.call(wrong, Verdict.class).join();
    } catch (CompletionException ended) {
      if (!(ended.getCause() instanceof InvalidRequestException refused)) {
        throw ended;
      }
      System.out.printf("%s at %s: %s%n", refused.code(), refused.path(), refused.getMessage());
    }
  }

  private static Properties properties(String argument) throws IOException {
    Properties properties = new Properties();
    properties.setProperty("millstream.client", "example");
    Path file = Path.of(argument);
    if (Files.exists(file)) {
      try (Reader reader = Files.newBufferedReader(file)) {
        properties.load(reader);
      }
    } else {
      properties.setProperty("bootstrap.servers", argument);
    }
    return properties;
  }
}
