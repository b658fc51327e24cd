package behaviour

import (
	"context"
	"fmt"
	"os"
	"strings"
)

func writeReport(path string) error {
	m, err := runMatrix(context.Background(), libraries, scenarios)
	if err != nil {
		return err
	}
	var s strings.Builder
	for _, sc := range scenarios {
		for _, l := range libraries {
			v := m[sc.id][l.name]
			fmt.Fprintf(&s, "%s\t%s\t%s\t%s\n", sc.id, l.name, v.Mark, v.Reason)
		}
	}
	return os.WriteFile(path, []byte(s.String()), 0o644)
}
