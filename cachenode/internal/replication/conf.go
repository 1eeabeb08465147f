package replication

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// The library takes configurations on trust: one that makes no sense ends in a panic when it is restored or applied, on
// every node that gets it. So each is tried out first, on a tracker of its own.

// tryConf returns the changer of a configuration, or what is wrong with it.
func tryConf(cs *raftpb.ConfState) (confchange.Changer, error) {
	changer := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}
	if len(cs.GetVoters()) == 0 {
		return changer, errors.New("no voters")
	}
	cfg, progress, err := confchange.Restore(changer, cs)
	if err != nil {
		return changer, err
	}
	changer.Tracker.Config, changer.Tracker.Progress = cfg, progress
	if err := cs.Equivalent(changer.Tracker.ConfState()); err != nil {
		return changer, err
	}
	return changer, nil
}

// tryChange tells whether a change can be applied to a configuration.
func tryChange(cs *raftpb.ConfState, cc *raftpb.ConfChangeV2) error {
	changer, err := tryConf(cs)
	if err != nil {
		return fmt.Errorf("the configuration before it: %w", err)
	}
	if cc.LeaveJoint() {
		_, _, err = changer.LeaveJoint()
	} else if autoLeave, ok := cc.EnterJoint(); ok {
		_, _, err = changer.EnterJoint(autoLeave, cc.GetChanges()...)
	} else {
		_, _, err = changer.Simple(cc.GetChanges()...)
	}
	if err != nil {
		return err
	}
	if len(cc.GetContext()) > 0 {
		_, err = decodeHosts(cc.GetContext())
	}
	return err
}
