package live

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// Nurse is a process that heals if this one cannot: it waits until this one has
// ended, however that came about.
type Nurse struct {
	cmd *exec.Cmd
	say io.WriteCloser
}

// NurseCommand is the first argument with which a nurse is started, by the
// program that calls it; its second is for [Attend].
const NurseCommand = "heal-when-orphaned"

// dismissal is what a nurse hears when there is nothing left to heal.
const dismissal = "healed\n"

// CallNurse starts this program again, as a nurse with the given remedies. What
// they heal may be injected once it has returned. The nurse must be dismissed.
func CallNurse(remedies ...Remedy) (*Nurse, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	plan, err := json.Marshal(remedies)
	if err != nil {
		return nil, err
	}
	n := &Nurse{cmd: exec.Command(self, NurseCommand, string(plan))}
	n.cmd.Stdout, n.cmd.Stderr = os.Stdout, os.Stderr
	// A session of its own: an interrupt typed at the terminal is not for it.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if n.say, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("nothing was done: start who would heal if this process were killed: %w", err)
	}
	return n, nil
}

// Dismiss waits for the end of the nurse. Unless everything is healed, it tries
// again what this process could not.
func (n *Nurse) Dismiss(healed bool) {
	if healed {
		_, _ = io.WriteString(n.say, dismissal)
	}
	n.say.Close()
	_ = n.cmd.Wait()
}

// Attend is the life of a nurse: it waits for what from says, or for its end,
// and heals unless that was a dismissal. plan is the second argument with which
// the nurse was started.
func Attend(ctx context.Context, plan string, from io.Reader) (healed bool, err error) {
	var remedies []Remedy
	if err := json.Unmarshal([]byte(plan), &remedies); err != nil {
		return false, fmt.Errorf("%s: %w", NurseCommand, err)
	}
	// Whatever ended the reading, nobody else heals now.
	if said, _ := bufio.NewReader(from).ReadString('\n'); said == dismissal {
		return false, nil
	}
	var errs []error
	for _, r := range remedies {
		errs = append(errs, r.Heal(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return false, fmt.Errorf("heal in place of another process: %w", err)
	}
	return true, nil
}
