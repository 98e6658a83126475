"""What everything but arithmetic costs: doors, gateway, streams, scheduler, block pool."""
