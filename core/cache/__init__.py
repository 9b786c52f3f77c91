"""What slow encoders make of data, kept: on the disk, or in memory."""
