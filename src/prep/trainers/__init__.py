"""What each trainer reads, one group of modules a trainer; nothing else in `prep` knows a trainer's keys or names."""
