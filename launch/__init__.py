"""Everything that wraps a stage: command line, run folder, lineage, tracking, report, chat."""
