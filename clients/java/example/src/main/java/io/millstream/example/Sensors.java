package io.millstream.example;

import io.millstream.client.Millstream;
import io.millstream.client.MillstreamClient;
import io.millstream.client.PipelineResult;
import io.millstream.client.Receipt;
import io.millstream.example.SensorService.Reading;
import io.millstream.example.SensorService.Trained;
import io.millstream.example.SensorService.Verdict;
import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;

/**
 * Trains a tenant's model and asks it: for the package that {@code millstream init sensors} writes, built, published and deployed.
 *
 * <p>Its one argument is a cluster's HOST:PORT, or a file of properties.
 */
public final class Sensors {
  private Sensors() {}

  /**
   * Runs the example.
   *
   * @param arguments HOST:PORT or a file of properties
   * @throws IOException the file cannot be read
   */
  public static void main(String[] arguments) throws IOException {
    Properties properties = properties(arguments.length == 0 ? "localhost:9092" : arguments[0]);
    try (Millstream millstream = new MillstreamClient(properties)) {
      SensorService sensors = new SensorService(millstream, "acme");

      PipelineResult<Trained> trained = sensors.train("acme", List.of(20.0, 20.5, 19.5, 20.2, 19.8), "2026-11-21");
      System.out.printf("%s version %d is trained%n", trained.value().model(), trained.value().version());

      // Both are on their way before the first is waited for.
      var usual = sensors.judge(new Reading("door", 20.1));
      var warm = sensors.judge(new Reading("door", 27.5));
      for (CompletableFuture<PipelineResult<Verdict>> asked : List.of(usual, warm)) {
        PipelineResult<Verdict> result = asked.join();
        System.out.printf("%s by node %s, release %s, try %d%n", result.value(), result.node(), result.release(), result.attempt());
      }

      System.out.println(sensors.explain(Map.of("sensor", "door", "value", "warm")));

      CompletableFuture<Verdict> seen = new CompletableFuture<>();
      Receipt receipt = sensors.watch(new Reading("window", 12.0), seen).join();
      System.out.printf("sent as %s; the listener was told %s%n", receipt.record(), seen.join());
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
