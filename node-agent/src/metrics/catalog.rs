//! Every family of samples that the agent has; docs/metrics.md is made of this.

rollcall_metrics::catalog! {
    BUILD = Info "rollcall_agent_build_info" ["version"]
        "The agent's version.";
    AGENT = Info "rollcall_agent_info" ["node", "broker", "broker_version"]
        "The node's name, and its broker.";
    CLIENTS = Gauge "rollcall_agent_clients" ["conn_state"]
        "Clients in the index; absent until the broker's clients are known.";
    INDEX_BYTES = Gauge "rollcall_agent_index_bytes" []
        "Memory of the index, added up every 10 s.";
    SNAPSHOTS = Gauge "rollcall_agent_snapshots" []
        "States of the index that are kept for pages that gateways are walking through.";
    CHANGES = Counter "rollcall_agent_changes_total" ["change"]
        "What the broker's adapter told of clients: present (connected or changed), ended, or a row of a resync.";
    RESYNCS = Counter "rollcall_agent_resyncs_total" ["outcome"]
        "Resyncs of the index with the broker: done, or broken off.";
    RESYNCED = Gauge "rollcall_agent_resynced_timestamp_seconds" []
        "When the index last agreed with the broker as a whole, seconds since 1970 UTC; absent if it never did.";
    BROKER_UP = Gauge "rollcall_agent_broker_up" []
        "1 if the broker can be asked, 0 if it cannot and its clients are shown as last known; absent until that is known.";
    BROKER_FAILURES = Counter "rollcall_agent_broker_failures_total" []
        "How often the broker could not be asked.";
    CALLS = Counter "rollcall_agent_calls_total" ["rpc", "outcome"]
        "Calls of gateways that have ended, by their gRPC code; cancelled are those that their callers gave up.";
    CALL_DURATION = Histogram "rollcall_agent_call_duration_seconds" ["rpc"]
        "How long calls took until the last of their answer was taken.";
    TOKEN_REFUSALS = Counter "rollcall_agent_token_refusals_total" ["reason"]
        "Calls refused before they were looked at: no token, a wrong one, or too many wrong ones came from their address.";
    CALLS_IN_FLIGHT = Gauge "rollcall_agent_calls_in_flight" []
        "Calls and exports in flight.";
    SCANS = Gauge "rollcall_agent_scans_running" []
        "Searches of many rows that run, at most one a core.";
    DRAINING = Gauge "rollcall_agent_draining" []
        "1 while the agent finishes its calls to go away.";
}
