"""The tasks of the application: functions of a resolved config and the run's folder."""
