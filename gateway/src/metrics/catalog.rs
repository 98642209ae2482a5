//! Every family of samples that the gateway has; docs/metrics.md is made of this.

rollcall_metrics::catalog! {
    BUILD = Info "rollcall_gateway_build_info" ["version"]
        "The gateway's version.";
    NODES_EXPECTED = Gauge "rollcall_nodes_expected" []
        "Nodes that the gateway is configured with.";
    NODES_AVAILABLE = Gauge "rollcall_nodes_available" []
        "Nodes that answered this scrape.";
    CLUSTER_CLIENTS = Gauge "rollcall_cluster_clients" []
        "Clients of the whole cluster, with a connection or a session without; absent unless every node answered.";
    CLUSTER_CONNECTED = Gauge "rollcall_cluster_connected_clients" []
        "Clients of the whole cluster that are connected; absent unless every node answered.";
    CLIENTS = Gauge "rollcall_clients" ["node", "zone", "proto_name", "proto_ver", "conn_state"]
        "Clients of the nodes that answered. Of one node the 100 largest combinations are told apart, the others are zone other.";
    NODE_UP = Gauge "rollcall_node_up" ["node"]
        "1 if the node answered this scrape, else 0.";
    NODE_STATE = Gauge "rollcall_node_state" ["node", "state"]
        "1 for the state that the node is in by its last probe, 0 for the others.";
    NODE = Info "rollcall_node_info" ["node", "address", "broker", "broker_version", "agent_version"]
        "What the node's agent said of itself last.";
    NODE_BROKER_UP = Gauge "rollcall_node_broker_up" ["node"]
        "1 if the agent says that it can ask its broker, 0 if it cannot; absent a minute after the agent was last heard.";
    NODE_CIRCUIT = Gauge "rollcall_node_circuit_open" ["node"]
        "1 if the node is not asked before it answers a probe, as it let callers wait in vain.";
    NODE_LAST_SEEN = Gauge "rollcall_node_last_seen_timestamp_seconds" ["node"]
        "When an answer of the node last came in, seconds since 1970 UTC; absent if none ever did.";
    NODE_RESYNCED = Gauge "rollcall_node_resynced_timestamp_seconds" ["node"]
        "When the agent last agreed with its broker as a whole, seconds since 1970 UTC.";
    NODE_CHANGES = Counter "rollcall_node_state_changes_total" ["node"]
        "How often the node's state has changed.";
    NODE_RESTARTS = Counter "rollcall_node_restarts_total" ["node"]
        "Restarts of the agent that the gateway has seen.";
    NODE_CALLS = Counter "rollcall_node_calls_total" ["node", "outcome"]
        "Calls to the node for requests and scrapes: answered, the reason they failed for, or skipped while the node is not asked.";
    NODE_CALL_DURATION = Histogram "rollcall_node_call_duration_seconds" ["node"]
        "How long calls to the node took, failed ones included; exports until their first rows.";
    NODE_ROWS = Counter "rollcall_node_rows_total" ["node"]
        "Rows that the node sent for pages of lists; those of exports are not among them.";
    NODE_CALLS_IN_FLIGHT = Gauge "rollcall_node_calls_in_flight" ["node"]
        "Calls to the node in flight.";
    NODE_PROBES = Counter "rollcall_node_probes_total" ["node", "outcome"]
        "Probes of the node: answered, or the reason they failed for.";
    HTTP_REQUESTS = Counter "rollcall_http_requests_total" ["route", "method", "code"]
        "Requests answered, by route (not path), method and status.";
    HTTP_REQUEST_DURATION = Histogram "rollcall_http_request_duration_seconds" ["route"]
        "How long requests took until their answer was ready; exports and bulk kicks until it began.";
    HTTP_IN_FLIGHT = Gauge "rollcall_http_requests_in_flight" []
        "Requests that are being answered.";
    HTTP_REFUSALS = Counter "rollcall_http_refusals_total" ["limit"]
        "Requests refused with 429 or 503 because of a limit of the gateway, or as it cannot put a kick on record or is shutting down.";
    HTTP_CONNECTIONS = Gauge "rollcall_http_connections" []
        "Open connections of users.";
    HTTP_CONNECTIONS_REFUSED = Counter "rollcall_http_connections_refused_total" []
        "Connections closed as they came, because max_connections were open.";
    KICKS = Counter "rollcall_kicks_total" ["outcome"]
        "Kicks of one client that have ended, alone or of a bulk kick, by their outcome on record.";
    BULK_KICKS = Counter "rollcall_bulk_kicks_total" ["outcome"]
        "Bulk kicks that have ended, by their outcome on record.";
    AUDIT_WAITING = Gauge "rollcall_audit_waiting_records" []
        "Records of kicks that wait for the disk, and those to come of kicks that are under way.";
    AUDIT_FAILURES = Counter "rollcall_audit_failures_total" []
        "Records of kicks that could not be written, or not in time.";
}
