package io.millstream.client;

import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Runs what belongs to the application, so that the client's own threads never wait for it. */
final class Callbacks {
  static final Logger LOG = LoggerFactory.getLogger("io.millstream.client");

  private static final long END_S = 5;

  /** Null where the application brought an executor, which then is the application's to end. */
  private final ExecutorService own;

  private final Executor executor;
  private final ThreadLocal<Boolean> inside = ThreadLocal.withInitial(() -> false);

  Callbacks(ClientSettings settings) {
    own = settings.executor().isPresent() ? null : Executors.newFixedThreadPool(threads(), daemons("millstream-callback"));
    executor = settings.executor().orElse(own);
  }

  /** Runs a task soon, on the executor; on this thread where the executor takes no more, since a result must not be lost. */
  void run(Runnable task) {
    Runnable guarded = () -> runHere(task);
    try {
      executor.execute(guarded);
    } catch (RejectedExecutionException full) {
      LOG.debug("the executor takes no more, so this thread runs the callback", full);
      runHere(task);
    }
  }

  /** Lets what was handed over run to its end, but does not wait for itself. */
  void close() {
    if (own == null) {
      return;
    }
    own.shutdown();
    if (inside.get()) {
      return;
    }
    try {
      if (!own.awaitTermination(END_S, TimeUnit.SECONDS)) {
        LOG.warn("callbacks still run {} s after the client was closed", END_S);
      }
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  static ThreadFactory daemons(String name) {
    AtomicInteger number = new AtomicInteger();
    return task -> {
      Thread thread = new Thread(task, name + "-" + number.incrementAndGet());
      thread.setDaemon(true);
      return thread;
    };
  }

  private void runHere(Runnable task) {
    boolean before = inside.get();
    inside.set(true);
    try {
      task.run();
    } catch (RuntimeException thrown) {
      LOG.warn("a callback of the application threw", thrown);
    } finally {
      inside.set(before);
    }
  }

  private static int threads() {
    return Math.max(2, Math.min(8, Runtime.getRuntime().availableProcessors()));
  }
}
