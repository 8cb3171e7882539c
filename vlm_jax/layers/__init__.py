"""The parts every network is made of: one attention, one transformer stack, one set of masks."""
