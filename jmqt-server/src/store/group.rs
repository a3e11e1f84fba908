//! The owners of the cursors of shared subscriptions.

use jmqt_core::ClientId;
use jmqt_mqtt::Filter;

/// The owner of the cursors of a group, which no client is; `None` if the filter is not shared, or if group and filter are
/// too long together.
pub(crate) fn owner_of(filter: Filter<'_>) -> Option<ClientId> {
    ClientId::of_group(&format!("{}/{}", filter.group()?, filter.path())).ok()
}
