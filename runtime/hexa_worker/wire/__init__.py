"""How events look in a broker: as our own readable headers, as hexa-event writes them, or as CloudEvents.

Pure: records in, records out. Inside of the runtime there is one form only (`hexa_worker.core.lineage` names its
control headers); `to_wire` and `from_wire` stand between it and a driver.
"""

from hexa_worker.wire.form import PLAIN, WIRES, Form, Wire, from_wire, to_wire

__all__ = ["PLAIN", "WIRES", "Form", "Wire", "from_wire", "to_wire"]
