import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.avro.Schema;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.processor.StateRestoreListener;

/**
 * One job on Kafka Streams, until SIGTERM. What to do stands in the environment, see bench/peers/systems.py.
 *
 * <p>Lines "restored" on standard output tell how long a restore took, from its first partition to its last.
 */
public final class Worker {
  static String env(String name) {
    String value = System.getenv(name);
    if (value == null) throw new IllegalStateException(name + " is not set");
    return value;
  }

  static Schema schema(String name) throws Exception {
    return new Schema.Parser().parse(Files.readString(Path.of(env("BENCH_SCHEMAS"), name + ".avsc")));
  }

  public static void main(String[] arguments) throws Exception {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, env("BENCH_GROUP"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env("BENCH_BOOTSTRAP"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, env("BENCH_STATE"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Long.parseLong(env("BENCH_COMMIT_INTERVAL_MS")));
    settings.put("auto.offset.reset", "earliest");
    if (env("BENCH_DELIVERY").equals("exactly_once")) {
      settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    }
    String linger = System.getenv("BENCH_LINGER_MS");
    if (linger != null) settings.put(StreamsConfig.producerPrefix("linger.ms"), linger);

    KafkaStreams streams = new KafkaStreams(Jobs.topology(env("BENCH_JOB")), settings);
    streams.setGlobalStateRestoreListener(new Restores());
    CountDownLatch stopped = new CountDownLatch(1);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      streams.close(Duration.ofSeconds(20));
      stopped.countDown();
    }));
    streams.start();
    stopped.await();
  }

  /** Tells of restores: how many rows, and the milliseconds from the first partition's begin to the last one's end. */
  private static final class Restores implements StateRestoreListener {
    private final Map<TopicPartition, Long> open = new HashMap<>();
    private long begunNs;
    private long cpuBegunNs;
    private long rows;

    @Override
    public synchronized void onRestoreStart(TopicPartition partition, String store, long from, long to) {
      if (begunNs == 0) {
        begunNs = System.nanoTime();
        cpuBegunNs = cpuNs();
      }
      open.put(partition, from);
    }

    @Override
    public void onBatchRestored(TopicPartition partition, String store, long last, long count) {}

    @Override
    public synchronized void onRestoreEnd(TopicPartition partition, String store, long count) {
      open.remove(partition);
      rows += count;
      double seconds = (System.nanoTime() - begunNs) / 1e9;
      System.out.printf("restored %d %.6f %.6f%n", rows, seconds, (cpuNs() - cpuBegunNs) / 1e9);
      System.out.flush();
    }

    private static long cpuNs() {
      var system = java.lang.management.ManagementFactory.getOperatingSystemMXBean();
      return ((com.sun.management.OperatingSystemMXBean) system).getProcessCpuTime();
    }
  }
}
