package io.millstream.client;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** A process {@code millstream node} that a test started, under a name that nobody else has. */
final class NodeProcess implements AutoCloseable {
  private static final long START_S = 120;
  private static int started;

  final String name;
  private final Process process;
  private final Path log;

  private NodeProcess(String name, Process process, Path log) {
    this.name = name;
    this.process = process;
    this.log = log;
  }

  static NodeProcess start() {
    return start(Harness.bootstrap());
  }

  /** Starts a node on the data directory of the harness and waits until it accepts requests. */
  static synchronized NodeProcess start(String bootstrap) {
    String name = "java-it-" + ProcessHandle.current().pid() + "-" + ++started;
    Path log = Harness.dataDir().resolveSibling(name + ".log");
    List<String> command = new ArrayList<>(Harness.command());
    command.addAll(List.of("node", "--data-dir", Harness.dataDir().toString(), "--kafka", bootstrap, "--name", name));
    try {
      ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile());
      if (bootstrap.equals(Harness.bootstrap())) {
        builder.environment().putAll(Harness.nodeEnvironment());
      }
      Process process = builder.start();
      NodeProcess node = new NodeProcess(name, process, log);
      Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
      node.awaitAccepting();
      return node;
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  private void awaitAccepting() {
    long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(START_S);
    while (!words().contains("node " + name + " accepts requests")) {
      if (!process.isAlive() || System.nanoTime() > until) {
        process.destroyForcibly();
        throw new IllegalStateException("node " + name + " does not accept requests:\n" + words());
      }
      pause(50);
    }
  }

  private String words() {
    try {
      return Files.readString(log);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** SIGTERM, and wait for its orderly end. */
  @Override
  public void close() {
    process.destroy();
    try {
      if (!process.waitFor(60, TimeUnit.SECONDS) || process.exitValue() != 0) {
        process.destroyForcibly();
        throw new IllegalStateException("node " + name + " did not end in order:\n" + words());
      }
    } catch (InterruptedException interrupted) {
      process.destroyForcibly();
      Thread.currentThread().interrupt();
    }
  }

  static void pause(long milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(interrupted);
    }
  }
}
