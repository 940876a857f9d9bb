"""How punctual is each airline, hour by hour, and does the maker of the aircraft matter?"""

import headrace as hr
from headrace import col


@hr.pipeline(owner="flight-ops")
def carrier_delays():
    """Hourly departure delays by carrier and maker of the aircraft."""
    flights = hr.stream("flights.departed")
    # The registers as they were when the flight was scheduled, however late the event came.
    planes = hr.table("planes", history="400d").select("tailnum", "manufacturer")
    airlines = hr.table("airlines", history="400d").select("carrier", airline="name")
    return (
        flights.filter(col("dep_delay").is_not_null())
        .join(planes, on="tailnum", how="left", as_of=True)
        .join(airlines, on="carrier", how="left", as_of=True)
        .group_by("carrier", "airline", "manufacturer")
        # Events come when the aircraft leaves: up to 22 hours after their scheduled time.
        .window(hr.tumbling("1h", grace="1d", idle_close="3s"))
        .agg(flights=hr.count(), mean_delay=hr.mean("dep_delay"), p95_delay=hr.quantile("dep_delay", 0.95))
        .to("carrier.delays.hourly", emit="final")
    )
