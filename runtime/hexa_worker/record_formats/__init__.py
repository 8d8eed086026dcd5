"""How events look in a broker: as our own readable headers, as hexa-event writes them, or as CloudEvents.

Pure: records in, records out. Inside of the runtime there is one form only (`hexa_worker.core.lineage` names its
control headers); `convert.to_wire` and `convert.from_wire` stand between it and a driver. `form` is all that
configuration needs of this, the rest is imported where a form is used.
"""
