import java.nio.ByteBuffer;
import java.time.Duration;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.WindowStore;

/** The jobs as topologies. Fields are taken by position, accumulators are sixteen bytes: the fast way to write them. */
final class Jobs {
  private static final Duration WINDOW = Duration.ofSeconds(60);
  private static final Duration GRACE = Duration.ofSeconds(10);
  private static final Serde<String> TEXT = Serdes.String();
  /** Positions in order.avsc. */
  private static final int ORDER_ID = 0, CUSTOMER_ID = 1, TIME = 2, AMOUNT = 3, STATUS = 5;

  private record Sum(double total, long n) {}

  static Topology topology(String job) throws Exception {
    StreamsBuilder builder = new StreamsBuilder();
    switch (job) {
      case "filter_project" -> filterProject(builder);
      case "tumbling_sum" -> tumblingSum(builder);
      case "customer_join" -> customerJoin(builder);
      case "payment_join" -> paymentJoin(builder);
      case "account_totals" -> accountTotals(builder);
      default -> throw new IllegalArgumentException("no job " + job);
    }
    return builder.build();
  }

  private static Serde<GenericRecord> avro(String name) throws Exception {
    return new AvroSerde(Worker.schema(name), 0);
  }

  private static KStream<String, GenericRecord> input(StreamsBuilder builder, int number, String schema) throws Exception {
    return builder.stream(Worker.env("BENCH_INPUTS").split(",")[number], Consumed.with(TEXT, avro(schema)));
  }

  private static void output(KStream<String, GenericRecord> rows, Schema schema) {
    Serde<GenericRecord> serde = new AvroSerde(schema, Integer.parseInt(Worker.env("BENCH_OUTPUT_SCHEMA_ID")));
    rows.to(Worker.env("BENCH_OUTPUT"), Produced.with(TEXT, serde));
  }

  private static void filterProject(StreamsBuilder builder) throws Exception {
    Schema written = Worker.schema("paid_order");
    Schema statuses = Worker.schema("order").getField("status").schema();
    GenericData.EnumSymbol paid = new GenericData.EnumSymbol(statuses, "PAID");
    output(
        input(builder, 0, "order")
            .filter((key, order) -> paid.equals(order.get(STATUS)))
            .mapValues(order -> (GenericRecord) head(order, written)),
        written);
  }

  /** A row of `schema` whose first four columns are those of an order. */
  private static GenericData.Record head(GenericRecord order, Schema schema) {
    GenericData.Record row = new GenericData.Record(schema);
    for (int column = ORDER_ID; column <= AMOUNT; column++) row.put(column, order.get(column));
    return row;
  }

  private static void tumblingSum(StreamsBuilder builder) throws Exception {
    Schema written = Worker.schema("total");
    output(
        input(builder, 0, "order")
            .groupByKey(Grouped.with(TEXT, avro("order")))
            .windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, GRACE))
            .aggregate(
                () -> new Sum(0, 0),
                (key, order, sum) -> new Sum(sum.total() + (Double) order.get(AMOUNT), sum.n() + 1),
                Materialized.<String, Sum, WindowStore<Bytes, byte[]>>as("totals")
                    .withKeySerde(TEXT)
                    .withValueSerde(sums()))
            .toStream()
            .map((window, sum) -> {
              GenericData.Record row = new GenericData.Record(written);
              row.put(0, window.key());
              row.put(1, window.window().start());
              row.put(2, sum.total());
              row.put(3, sum.n());
              return KeyValue.pair(window.key(), (GenericRecord) row);
            }),
        written);
  }

  private static Serde<Sum> sums() {
    return Serdes.serdeFrom(
        (topic, sum) ->
            sum == null ? null : ByteBuffer.allocate(16).putDouble(sum.total()).putLong(sum.n()).array(),
        (topic, bytes) -> {
          if (bytes == null) return null;
          ByteBuffer both = ByteBuffer.wrap(bytes);
          return new Sum(both.getDouble(), both.getLong());
        });
  }

  private static void customerJoin(StreamsBuilder builder) throws Exception {
    Schema written = Worker.schema("enriched_order");
    KTable<String, GenericRecord> customers =
        builder.table(
            Worker.env("BENCH_INPUTS").split(",")[1],
            Consumed.with(TEXT, avro("customer")),
            Materialized.<String, GenericRecord, KeyValueStore<Bytes, byte[]>>as("customers")
                .withKeySerde(TEXT)
                .withValueSerde(avro("customer")));
    output(
        input(builder, 0, "order")
            .join(
                customers,
                (order, customer) -> {
                  GenericData.Record row = head(order, written);
                  for (int column = 1; column <= 3; column++) row.put(column + 3, customer.get(column));
                  return (GenericRecord) row;
                },
                Joined.with(TEXT, avro("order"), avro("customer"))),
        written);
  }

  private static void paymentJoin(StreamsBuilder builder) throws Exception {
    Schema written = Worker.schema("order_payment");
    JoinWindows near = JoinWindows.ofTimeDifferenceAndGrace(GRACE, GRACE).before(Duration.ZERO);
    output(
        input(builder, 0, "order")
            .join(
                input(builder, 1, "payment"),
                (order, payment) -> {
                  GenericData.Record row = head(order, written);
                  row.put(4, payment.get(0));
                  row.put(5, payment.get(2));
                  row.put(6, payment.get(3));
                  return (GenericRecord) row;
                },
                near,
                StreamJoined.with(TEXT, avro("order"), avro("payment"))),
        written);
  }

  /** Sum and count by key for ever: the state that is restored. Its input and output are of bench/recovery. */
  private static void accountTotals(StreamsBuilder builder) throws Exception {
    Schema read = new Schema.Parser().parse(Worker.env("BENCH_INPUT_SCHEMA"));
    int amount = read.getField("amount").pos();
    int account = read.getField("account").pos();
    builder.stream(Worker.env("BENCH_INPUTS"), Consumed.with(Serdes.Bytes(), (Serde<GenericRecord>) new AvroSerde(read, 0)))
        .groupByKey(Grouped.with(Serdes.Bytes(), new AvroSerde(read, 0)))
        .aggregate(
            () -> new Sum(0, 0),
            (key, payment, sum) -> new Sum(sum.total() + (Double) payment.get(amount), sum.n() + 1),
            Materialized.<Bytes, Sum, KeyValueStore<Bytes, byte[]>>as("totals")
                .withKeySerde(Serdes.Bytes())
                .withValueSerde(sums()));
  }

  private Jobs() {}
}
