"""What tests share: random parameters, quiet runs, schedules, the command and the peers' tiny models."""
