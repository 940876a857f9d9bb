import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serializer;

/**
 * Avro records behind the five bytes of a schema registry, as Confluent's serde writes them.
 *
 * <p>Encoders, decoders and buffers are kept and used again: this is the fast way of the Java library.
 */
final class AvroSerde implements Serde<GenericRecord> {
  private static final int PREFIX_BYTES = 5;
  private final Schema schema;
  private final int schemaId;

  AvroSerde(Schema schema, int schemaId) {
    this.schema = schema;
    this.schemaId = schemaId;
  }

  @Override
  public Serializer<GenericRecord> serializer() {
    ByteArrayOutputStream out = new ByteArrayOutputStream(256);
    GenericDatumWriter<GenericRecord> writer = new GenericDatumWriter<>(schema);
    byte[] prefix = ByteBuffer.allocate(PREFIX_BYTES).put((byte) 0).putInt(schemaId).array();
    BinaryEncoder[] kept = new BinaryEncoder[1];
    return (topic, row) -> {
      if (row == null) return null;
      try {
        out.reset();
        out.write(prefix, 0, PREFIX_BYTES);
        kept[0] = EncoderFactory.get().directBinaryEncoder(out, kept[0]);
        writer.write(row, kept[0]);
        kept[0].flush();
        return out.toByteArray();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    };
  }

  @Override
  public Deserializer<GenericRecord> deserializer() {
    GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(schema);
    BinaryDecoder[] kept = new BinaryDecoder[1];
    return (topic, bytes) -> {
      if (bytes == null) return null;
      try {
        kept[0] = DecoderFactory.get().binaryDecoder(bytes, PREFIX_BYTES, bytes.length - PREFIX_BYTES, kept[0]);
        return reader.read(null, kept[0]);
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    };
  }
}
