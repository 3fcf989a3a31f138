"""What a run is to do: the typed spec, its reader, and one sentence for each mistake."""
