import java.util.Optional;
import org.apache.pulsar.metadata.api.MetadataStoreConfig;
import org.apache.pulsar.metadata.api.extended.MetadataStoreExtended;

/**
 * Removes the registrations of bookies from the metadata (an absolute path) of a broker that was killed.
 *
 * <p>They are ephemeral, but outlive SIGKILL in RocksDB. A new broker that finds one may delete and re-create its own
 * lock for ever (BookieServiceInfo has no equals), and topics fail with "Not enough bookies".
 */
class Unregister {
  public static void main(String[] args) throws Exception {
    var config = MetadataStoreConfig.builder().build();
    try (var store = MetadataStoreExtended.create("rocksdb://" + args[0], config)) {
      if (!store.exists("/ledgers").get()) {
        throw new IllegalArgumentException("no broker's metadata: " + args[0]);
      }
      // The store itself drops registrations of earlier runs when it lists them; what it still takes for its own is
      // dropped here.
      for (String bookie : store.getChildren("/ledgers/available").get()) {
        store.delete("/ledgers/available/" + bookie, Optional.empty()).get();
      }
    }
  }
}
