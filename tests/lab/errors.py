"""What can go wrong with a broker of the lab."""


class BrokerError(Exception):
    """A broker did not do what was asked of it; the message says where its log is."""


class BrokerUnavailableError(BrokerError):
    """The machine cannot have the broker (a tool or a package is missing): tests are skipped with this reason."""


class NotOurBrokerError(BrokerError):
    """The broker was started by somebody else (its address was given), so the lab may not break or erase it."""
