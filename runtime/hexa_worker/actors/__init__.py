"""The running parts, one file per role: supervisor → worker → pump, lanes, settler, sweeper; drain."""
