import java.util.Optional;
import org.apache.pulsar.metadata.api.MetadataStoreConfig;
import org.apache.pulsar.metadata.api.extended.MetadataStoreExtended;

/**
 * Removes the registrations of bookies from the metadata of a broker that was killed.
 *
 * <p>They are ephemeral, but outlive SIGKILL in RocksDB. Pulsar 4.0 may then delete and re-create its own lock for ever
 * (BookieServiceInfo has no equals), and topics fail with "Not enough bookies".
 */
class Unregister {
  public static void main(String[] args) throws Exception {
    var config = MetadataStoreConfig.builder().build();
    try (var store = MetadataStoreExtended.create("rocksdb://" + args[0], config)) {
      for (String bookie : store.getChildren("/ledgers/available").get()) {
        store.delete("/ledgers/available/" + bookie, Optional.empty()).get();
      }
    }
  }
}
