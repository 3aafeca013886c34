"""The kopf shell of the controller: reads everything, asks `core`, writes everything."""
