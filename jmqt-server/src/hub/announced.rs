//! The filters of this node, which the other nodes of a cluster know.

use std::sync::Arc;

use super::Cluster;
use super::filters::Filters;
use crate::outbox::Subscription;

/// Adds a subscription with a filter; returns `false` if its name has none. On return the other nodes know the filter.
pub(super) async fn add_filter(
    filters: &Filters,
    cluster: Option<&Cluster>,
    subscription: &Arc<Subscription>,
) -> bool {
    let Some(cluster) = cluster else { return filters.add(subscription, |_| {}) };
    let is_added = filters.add(subscription, |filter| cluster.filter_added(filter.path()));
    if is_added {
        cluster.filters_are_known().await;
    }
    is_added
}

/// Removes a subscription with a filter.
pub(super) fn remove_filter(filters: &Filters, cluster: Option<&Cluster>, subscription: &Arc<Subscription>) {
    filters.remove(subscription, |filter| {
        if let Some(cluster) = cluster {
            cluster.filter_removed(filter.path());
        }
    });
}
