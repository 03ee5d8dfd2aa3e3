"""What a terminal shows: streams, progress, tables and curves as text."""
